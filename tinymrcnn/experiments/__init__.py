"""The article on trial: one short file for each table or figure, over one runner."""
