"""Figures and pages for whoever looks at a graph, a training or a forecast."""
