"""Any image-text-to-text model of transformers, without code for its type.

A model is asked what it is: its processor says how a picture is written into the prompt, its own functions
say how pictures become features and where tokens stand. What is found that way is tried at the start on
synthetic pictures; what does not hold is not used.
"""
