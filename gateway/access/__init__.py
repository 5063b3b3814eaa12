"""Who may come in: keys, scopes and rates, checked in one place for every door."""
