"""What serving costs, measured: `make bench`. The method is in docs/performance.md."""
