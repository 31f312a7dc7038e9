"""Drawing: line charts, maps, and the picture of a graph."""
