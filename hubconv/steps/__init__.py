"""The steps of a conversion, one room each, in the order of the walk.

inventory (headers) → decide (what happens to each tensor) → shards (output shards) → plan
(everything together) → verify → publish → report.
"""
