"""For people: one page that shows how everything stands."""
