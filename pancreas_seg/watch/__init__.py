"""A folder that is watched: what is dropped into it comes back segmented.

Where a case stands is where its input lies, and each step is one atomic rename, which only one process can win:

    IN/ct.nii.gz                     waits until it is complete
    IN/running/ct.<token>/ct.nii.gz  is being segmented by the one who knows the token
    IN/done/ct/ct.nii.gz             is segmented; OUT/ct has the result
    IN/refused/ct/ct.nii.gz          is no sound CT; reason.txt beside it
    IN/failed/ct/ct.nii.gz           failed twice; reason.txt beside it

From ``running`` on, a ``case.json`` beside the input tells the rest. A case is taken over by renaming its folder to a
new token, whereupon every path of the former owner leads nowhere. Results are made in ``OUT/.watch/work/<token>`` and
renamed to ``OUT/<case>`` when they are complete.
"""
