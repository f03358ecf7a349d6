"""A web panel for HarpCaller's dispatcher, as one WSGI application: ``app.Panel``.

===============  ======================================================================
``app``          from a request to a view, and from what goes wrong to a page
``settings``     the settings file
``web``          requests and responses
``markup``       HTML from Python, where everything is escaped
``users``        who there is; ``sessions``: who it is that asks
``page``         what all pages share; ``show``: times, values, states
``forms``        from a procedure's parameters to a form, and from that to arguments
the others       the views: ``login``, ``hosts``, ``submit``, ``jobs``, ``stream``,
                 ``groups``, ``queues``
===============  ======================================================================
"""
