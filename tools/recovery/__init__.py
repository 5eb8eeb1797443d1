"""The HopSupSup setting, from data to the tables of docs/HOPFIELD.md."""
