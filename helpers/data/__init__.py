"""What the files hold: sentences, triplets, retrieval sets."""
