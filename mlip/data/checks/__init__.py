"""Whether a data set is what it says it is: units, signs and order of its labels, judged by physics first."""
