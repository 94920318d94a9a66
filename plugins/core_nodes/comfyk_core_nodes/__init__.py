"""The nodes that every workflow builds on, computed with torch."""
