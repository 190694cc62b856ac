"""Ground floor: errors, settings, the machine, safe files, figures, recorded metrics and the lesson runner."""
