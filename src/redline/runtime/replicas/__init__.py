"""Copies that train by themselves and share gradients: A3C, Gorila, and Accel RL's two ways."""
