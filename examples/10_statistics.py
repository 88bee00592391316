"""Statistics without machine learning: five clinics describe their patients together, and no row leaves its clinic.

What is publicly known of a column bounds it: the range of numbers, the values of classes.  Cells below 5 are not released.
"""

import pandas as pd
from sklearn.datasets import load_breast_cancer

from securefl.data.breast_cancer import RANGES
from securefl.statistics import Columns, SecureStatistics

table = load_breast_cancer(as_frame=True).frame
table["grade"] = pd.cut(table["mean area"], [0, 500, 1000, 2000, 9999], labels=["i", "ii", "iii", "iv"])
table.loc[::9, "mean texture"] = None  # not measured
clinics = {f"clinic {number}": table.iloc[number::5] for number in range(1, 5)} | {"clinic 5": table.iloc[::5]}

features = ["mean radius", "mean texture", "mean area"]
public = Columns({name: RANGES[name] for name in features}, levels={"grade": ["i", "ii", "iii", "iv"], "target": [0, 1]})
statistics = SecureStatistics.simulated(clinics, public, protocol="secagg", on_notice=lambda line: print("told to", line))

described = statistics.describe()
print(described.frame()[["count", "missing", "mean", "std"]])
print(f"the mean area is off by at most {described.mean_error[2]:.0e}; pooled, pandas has {table['mean area'].mean()}")
print(statistics.quantile().frame())
print(statistics.correlation().frame().round(3))
print(statistics.histogram("mean radius", bins=6).frame())
cells = statistics.crosstab("grade", "target")
print(cells.frame())
print(f"{cells.withheld} cells are not released: each may be below {cells.min_cell}, or would give away one that is")
for event in cells.opened:
    print(f"opened ({event.coverage}): {event.what}")
