"""Drift: has the world changed?

errors      of P(y given x), seen in the losses of the version that serves
detectors   what the error monitor is made of
inputs      of P(x), seen in the rows that are asked, without labels
"""
