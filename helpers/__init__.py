"""Machinery behind the notebooks: four wings over one ground floor.

Arrows run down only: ``serving`` > ``embedding`` | ``instruct`` > ``data`` > ``course``.
"""
