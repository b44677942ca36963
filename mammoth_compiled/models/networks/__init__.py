"""The networks that methods build around a backbone."""
