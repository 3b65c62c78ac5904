"""What people and services do with rules and alarms."""
