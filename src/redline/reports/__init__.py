"""Pages, charts and sentences made from the files a run left; nothing here can slow or break a run."""
