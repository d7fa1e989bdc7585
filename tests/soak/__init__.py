"""Long tests, run by `make soak` and not by `make test`; what they found last stands in docs/soak.md."""
