"""Decisions that outlive the process: log, lease, snapshots, and the one writer."""
