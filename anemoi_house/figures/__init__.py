"""How pictures look: style, maps, a graph."""
