"""The loop between a hospital's image archive and the models: new studies in, reports and overlays of the same study out, over DICOMweb.

dicomweb.py    QIDO-RS, WADO-RS, STOW-RS with limits; credentials.py
facts.py       the tags of a series or an image that rules look at
selection.py   which series or images a model is asked about, or why none: rules of the spec's [pacs] part
answer.py      what a model said of a study, whatever the disease; chest_ct.py, photograph.py make it
report.py      the answer as a structured report (TID 1500)
overlay.py     the answer as a segmentation, or as a picture (secondary capture)
identity.py    UIDs that the same study and model always get again
ledger.py      what became of each study, over restarts
loop.py        one pass over the archive, and the next
"""
