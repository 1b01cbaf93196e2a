"""What reads a layer or an object as a system and writes it back: one module a framework, loaded when its objects arrive.

A module may import the core and its one framework; it never imports another framework's.
"""
