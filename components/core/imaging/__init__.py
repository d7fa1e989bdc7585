"""Images: DICOM objects to arrays in the spec's unit, patches, augmentation."""
