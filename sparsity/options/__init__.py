"""What a user may write: the options, their types and ranges, the components that they name, and what is wrong with them."""
