"""harpd. Three kinds of process: the front (front.py), which speaks with callers; the
spawner (spawner.py), which forks and kills; and the calls (runner.py)."""
