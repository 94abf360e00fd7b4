"""A synthetic abdomen in portal-venous CT, drawn from a seed, for tests and demonstrations without patient data.

`draw_phantom` gives one patient, `write_cohort` a folder of them with a manifest. Organs are painted from the skin
inwards; a later one covers an earlier one. The folder, each module building on those above it:

- ``labels``: the label values and their names
- ``shapes``: signed distances, curves, tubes; ``texture``: random fields
- ``patient``: build, contrast phase and random streams of one patient; reference coordinates
- ``outline``: skin, wall and diaphragm as surfaces
- ``canvas``: HU and labels on a grid, and the ways to paint on it
- ``body``: table, skin, fat, muscles, chest; ``bones``: ribs and spine
- ``organs``: liver, spleen, kidneys, gallbladder, with the vessels inside them; ``pancreas``
- ``vessels``: aorta, cava, and the vessels along the pancreas; ``bowel``: stomach to colon, and the mesentery
- ``draw``: the order of painting, the field of view, the scanner's noise
- ``cohort``: files and manifest
"""

from pancreas_seg.data.phantom.cohort import write_cohort
from pancreas_seg.data.phantom.draw import Phantom, draw_phantom
from pancreas_seg.data.phantom.labels import LABELS

__all__ = ["LABELS", "Phantom", "draw_phantom", "write_cohort"]
