"""The options that a user may set: their types and ranges, the components that they name, and the messages about mistakes."""
