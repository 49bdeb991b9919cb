"""Ways in which learners have combined their gradients, one file each. See ``redline.learners.exchange``."""
