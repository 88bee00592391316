"""Jobs as bundles: a folder turned into one file that its author signs, and that every party reads before it runs.

What all agree to is the hash of the contents (`securefl.bundles.contents`); who wrote them says a signature
(`securefl.bundles.signed`); what a party decided lies on its own disk (`securefl.bundles.kept`).
"""
