"""The local stack: Airflow and the facade on this machine, for ``make demo``, ``make up`` and tests.

::

    from stack.local import LocalStack
    from stack.settings import load_settings

    with LocalStack(load_settings()) as stack:
        print(stack.url, stack.airflow_url)

It keeps all its state in ``COGNITIONOS_HOME`` and leaves no process behind, however it ends.
"""
