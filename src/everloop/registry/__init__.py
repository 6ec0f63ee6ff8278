"""WANT: what should be live, durably; every change of a model goes through here.

catalog        `Registry`: the one way that models and versions change
changes        one transaction, its events in it, told once committed
registration   how a model is registered, and what fits it
references     what versions are called: numbers, names, aliases
traffic        promote, roll back, split, archive
plans          plans of rollouts as people write them
rolling        what a rollout's actions change of its model
rollouts       rollouts as people and the controller handle them
lineage        how a version came about
collection     garbage collection of artifacts
bundle         a model as one file
deployment     what should be live, for `serving.reconciler`
"""
