"""IEC 61850 over MMS, on hat-drivers' MMS: attributes read, reports subscribed, objects controlled.

``names`` and ``values`` are pure: references and what MMS carries; ``reports`` takes information reports apart;
``client`` is one association; ``intake`` makes reports and events of what is told; ``line`` is the line.
"""
