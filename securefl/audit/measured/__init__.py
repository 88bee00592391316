"""What a mechanism gives away, measured: ε beside the ε that is claimed, membership, reconstruction.

Everything runs through the code that trains: `securefl.trainer.ClientTrainer`, what `securefl.privacy.prepared` gives a site
(`securefl.privacy.dpsgd.LocalRecordDP` with Opacus), `securefl.encode`, `Runner`.
Nothing is imported here: `epsilon` needs numpy and scipy alone.
"""
