"""Questions that no text in a picture answers, in wordings that training never uses."""

from __future__ import annotations

_WORDINGS = """
Could you tell me if it is going to rain? | Does the weather look nice today?
Are those clouds or mountains far off? | Would you say that this is a happy scene?
Which of the animals is biggest? | Is the puppy asleep? | Did somebody leave a bicycle here?
Whereabouts are we? | Roughly how many folks are standing around? | How many wheels does the vehicle have?
How many windows has the house? | Could there be a cat hiding somewhere? | Is anybody swimming?
What sort of tree grows there? | Which vegetable is lying on the plate?
What might the woman be thinking? | What emotion does the child show? | Is the traffic light red or green?
Has the sun gone down already? | Does anyone wear glasses? | What hairstyle does the man have?
Which fruit is that? | Are the leaves falling from the trees? | At what season was this shot?
Is it autumn or spring? | Was this photo taken from a plane? | Does this look like Europe?
How warm do you think it is outside? | Could I swim in this lake? | Is the water deep?
Are there any insects on the flower? | Which insect sits on the leaf? | Tell me about the landscape.
Give me a caption. | Summarise the scene for a blind person. | Please describe everything in detail.
What stands out the most? | What catches your eye first? | Anything unusual going on?
Is this picture in focus? | Is the photo black and white? | Which camera took this?
Who owns the copyright? | What colour are her eyes? | What is the colour of the sky?
What shade of blue is the sea? | What colours do you see in the background?
Is the grass greener on the left? | Do the mountains have snow on them? | How high is that mountain?
What is the name of this flower species? | Can dogs enter the water here? | Is a storm coming?
How strong is the wind? | Where does this road lead? | Does the path go uphill?
Is there enough light to read? | How far is it to the shore? | How deep is the snow?
Which planet is visible? | Is that the moon? | Do you recognise the celebrity?
Who is the prime minister? | Solve 12 times 7. | Translate good morning into French.
Who won the match yesterday? | What is your name? | Are you a robot? | Sing a song for me.
What did I eat yesterday? | Should I buy it? | Is it worth visiting? | How would you improve the photo?
What is missing here? | Which object is closest to the camera? | What lies between the two stones?
Is the boat floating or sinking? | Are the people friends? | Is he taller than her?
What is the boy pointing at? | Why do they laugh? | What happened before this? | What will happen next?
Is the food spicy? | Which ingredients are in the soup? | How ripe are the bananas?
Is the coffee still warm? | Does the room have a carpet? | How many chairs stand around the table?
What is hanging from the ceiling? | Which furniture do you see? | Is the bed made? | Is the door locked?
Are the curtains drawn? | Which instrument is the musician playing? | Which team plays in white?
Did the player score? | What game is this? | Is the horse jumping over a fence?
How many legs does the spider have? | Do birds nest here? | Is the fish edible? | Which bird is singing?
Are there any shadows? | Where does the light come from? | Is there a reflection in the water?
Is the ground wet or dry? | What material was used for the bridge?
In which century was the castle built? | Who was the architect? | Is the tower leaning?
How old might this car be? | Which make is the car? | Is the engine running? | Are the headlights on?
Does the truck carry cargo? | Is a train approaching? | How many passengers wait? | Is the bus full?
Has the plane landed? | Does the bicycle have a basket? | Which direction does the wind blow?
Is someone crossing the street? | Are we indoors? | Is it noon or evening? | Could this be Paris?
Which continent is this? | Would kids like this place? | Is smoking bad for you?
Can you count the sheep? | Count all persons wearing hats. | Point at the dog. | Show me the cat.
Draw a box around the ball. | Segment the trees. | Is there fire or smoke? | Does this person need help?
Is anyone injured? | Is the scene dangerous for children? | Do you notice litter on the beach?
How clean is the river? | What plants can you identify? | Are the petals yellow?
Does the flower have thorns? | Is the fruit hanging on a branch? | Is the wood painted?
What is the texture of the wall? | What pattern do the tiles form? | Which shapes can be seen?
How many triangles are there? | Is the pattern symmetrical? | Do the colours match?
What is the artistic style? | Is it a drawing? | Who painted this? | What feeling does it evoke?
Is there a rainbow? | Are stars visible? | How many clouds float in the sky? | Is the sea calm?
Are there waves? | Did it snow last night? | Is the lake frozen? | Is the man bald?
Does she wear a ring? | What's in his left hand? | Is the baby crying? | Which pet do they own?
Is that a wolf or a dog? | How heavy could the elephant be? | Are zebras in the herd? | What do cows eat?
Does the cat look hungry? | Is the horse brown? | Are the ducks in the pond?
What is the gentleman carrying? | Do I need an umbrella? | Should one wear a coat there?
How many buildings line the street? | Which storey is the balcony on? | Is the roof flat?
Are there flags on the roof? | Does the fountain work? | Is the wheel flat? | Will the ice melt soon?
How many petals has the blossom? | Who lives in that cottage? | Are the cups made of plastic?
Does the wooden plank look old? | Which tool lies on the bench? | Is the butterfly blue?
How many brushes stand in the jar? | Did the leaf turn brown? | Is anything blurred in the foreground?
Which part of the plant is this? | Would a giraffe fit through? | Is the sand hot?
How many dogs do you spot? | Do you think they are married? | Is he angry with me?
What would you cook with this? | Can you guess her age? | Is that a lighthouse? | Which month could it be?
Is the meadow mown? | What's the dog's mood? | Are the hills covered with forest? | Is the sky overcast?
"""
QUESTIONS = tuple(q.strip() for q in _WORDINGS.replace("\n", "|").split("|") if q.strip())
