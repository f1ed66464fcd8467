"""Steps on other machines: what travels, what a cluster must do, the clusters there are."""
