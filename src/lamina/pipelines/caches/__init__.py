"""Path caches of steps: versions side by side, and Bitbucket's own single slot for comparison."""
