"""The large model that is imitated: how it is asked, at what pace and price, and what keeps its replies."""
