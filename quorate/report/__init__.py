"""What a run looked like: one HTML file that opens without a network, or one table in the terminal.

Everything here reads run folders only, and trusts nothing that stands in them.
"""
