"""WANT: what should be live, durably; every change of a model goes through here.

catalog      `Registry`: the one way that models and versions change
deployment   what should be live, for `serving.reconciler`
"""
