"""Speed against what people would use instead: the same work, side by side, in one run. `make bench`."""
