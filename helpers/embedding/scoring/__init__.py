"""From vectors to leaderboard rows (lesson 05): searches, fusion, MTEB; the metrics are ``retrieval_metrics.py``."""
