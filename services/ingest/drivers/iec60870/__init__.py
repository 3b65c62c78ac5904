"""IEC 60870-5-101 and -104: one set of ASDUs, one master, two ways to carry them.

``asdu`` and ``times`` are pure codecs; ``intake`` makes reports and events of what a station tells; ``master`` asks,
commands and keeps the order of things; ``iec104`` and ``iec101`` connect. Transport (APCI with k, w and t0 to t3) and
link layer (FT1.2) are those of hat-drivers.
"""
