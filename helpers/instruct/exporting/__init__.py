"""What stands around an export (lesson 09): the gate, its probes, settings and figures; the exports are ``export.py``."""
