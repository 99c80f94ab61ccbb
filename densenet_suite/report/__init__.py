"""What a run looks like: figures, pictures, tables, and one page that shows them."""
