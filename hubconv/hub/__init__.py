"""The only rooms that speak to the Hub: client, source, target, staging."""
