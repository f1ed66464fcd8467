"""Many writers of one shared cache at once, some of them killed, its server restarted: what a trial does and counts.

    python -m lamina.testing.writers --backend oci --writers 32 --machines 4 --kills 6 --restart

What it is for, and results: docs/explanation/many-writers.md.
"""
