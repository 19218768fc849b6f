"""Safe engine upgrades for SAM: event-sourced, resumable, reversible."""
