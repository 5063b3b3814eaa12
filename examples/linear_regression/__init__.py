"""Linear regression by gradient descent, from a small table to answers over HTTP.

The script that this follows cleans its numbers with ``np.where(X > 1, X, 0)``, scales them, and descends for 1,000
epochs at a rate of 0.01. The example shows what becomes of numbers below 1, and the same way with a cleaning that keeps
them.
"""
