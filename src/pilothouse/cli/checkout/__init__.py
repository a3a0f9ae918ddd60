"""The directory in front of ``pilot pipeline run``, made into a checkout (docs/checkout.md).

``git`` runs git safely, ``repository`` says what a directory is, ``state`` what differs from ``HEAD``,
``objects`` makes packs of commits, ``archive`` writes the tar, ``sending`` puts them together.
"""
