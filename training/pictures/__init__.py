"""The pictures that training sees, drawn from scenes: views with dense labels, pairs of a view and a crop."""
