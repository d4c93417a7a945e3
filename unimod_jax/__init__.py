"""unimod_jax: unified multimodal transformers with untied towers and task routing.

Two papers, one system. Mixture-of-Transformers (arXiv 2411.04996) unties every
non-embedding parameter by modality; UniMoD (arXiv 2502.06474) gives each task its own
router per layer and lets unneeded tokens skip it. Rooms, in the order of imports:

    layout      what a batch of unified tokens is
    mot, mod    untied towers; task routers (neither knows the other)
    models      one transformer that composes them
    objectives  what each task is trained on, and its loss
    generation  how each objective generates
    data        records -> documents -> batches
    parallel    meshes and sharding rules
    training    state, step, loop, checkpoints, report
"""

__version__ = "0.1.0"
