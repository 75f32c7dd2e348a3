"""Answer without a language model: rules that are loaded, checked, matched and explained."""
